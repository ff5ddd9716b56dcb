"""`make cluster`: payments through the public API while the nodes of a RabbitMQ cluster go and come back.

Three nodes run on this machine, and the gateway's roles know all of them. The leader of `settlement.requested` is
killed, then the next leader, then every node is restarted gracefully, then two are killed at once. At the end nothing
may be lost or settled twice, everybody is connected again, and every queue has all of its members.
"""
