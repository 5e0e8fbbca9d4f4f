"""A seeded simulation of the chat core: the real writer, topics, members and receipts of several replicas, over a store
and a bus that delay, fail and forget, on an event loop whose time is virtual.

A seed decides everything that happens, so a seed that fails does so again:
`python -m tests.simulation --from SEED --seeds 1`.
"""
