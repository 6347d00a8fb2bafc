"""``flashpods-admin doctor``: each trouble of the operations guide, found by its symptoms.

``finding`` is what a check returns; ``services``, ``jobs``, ``storage``, ``identity`` and
``network`` have the checks; ``examine`` runs them one after the other.
"""
