"""The API behind real nginx and HAProxy servers with the files of ops/."""
