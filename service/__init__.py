"""The REST service. A request's way: `guards` -> Connexion's routing -> `validation` -> `threads` -> `handlers` -> `upstream`.

`errors` turns whatever fails on that way into a problem document; `app` puts the pieces together.
"""
