"""What both of our HTTP services are built of: answers, routes, connections, the server itself."""
