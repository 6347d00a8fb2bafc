"""``flashpods-token-service``: secrets for who can show a JWT-SVID and is its container."""
