"""The MCP server: what a coding agent on the laptop calls (contract, section 9)."""
