"""SPIRE's product side: registration by declaration, and an agent that comes back by itself."""
