"""SPIRE and the token service beside the stack: ``./dev up --identity`` and the identity tests."""
