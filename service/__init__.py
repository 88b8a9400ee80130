"""The REST service. A request's way: `guards` -> `callers` -> `pages` -> Connexion's routing -> `validation` -> `threads`
-> `handlers` -> `idempotency` -> `upstream`.

Around that way `records` tells of the request, and `errors` turns whatever fails into a problem document; `app` puts the
pieces together.
"""
