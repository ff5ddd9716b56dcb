"""`make cluster`: payments through the public API while the nodes of a RabbitMQ cluster stop and restart.

Three nodes run on this machine, and the gateway's roles know all of them. The leader of `settlement.requested` is
killed, then the next leader; then every node is restarted gracefully; then two are killed at once. At the end no
payment may be lost or settled twice, all roles must be connected, and every queue must have all of its members.
"""
