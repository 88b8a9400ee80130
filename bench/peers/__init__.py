"""What the gateway is compared with, each as well configured as its documentation says. Nothing here is imported by the project.

Each reads `UPSTREAM` (base URL) and `POOL` (connections it may keep) from the environment and sends the key that the gateway
would send. Run by a server of its own kind; see `bench.targets`.
"""
