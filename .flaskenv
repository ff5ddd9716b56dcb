# Read by the `flask` command in this folder.
FLASK_APP=gateway.app
