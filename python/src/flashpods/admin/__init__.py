"""``flashpods-admin``: what an operator does on the host itself, as root."""
