"""Who may call, for the REST service and the MCP bridge alike; imports neither of them, nor the contract.

`guard` refuses what a foreign web page sends, `bearer` tells who calls (by `tokens` or `issuers`), `rates` limits how
often (by `windows`), `binding` refuses to listen to the world without them, `token` makes a token. What is refused is raised as
`refusals.Refused`; each process words the answer in its own form. Both read their settings by `settings`, and `shown` shows
them without their secrets.
"""
