"""One chat completion from one endpoint: the only room that knows HTTP.

It owns request bodies, the transport, the classification of everything that can come back, retries, and when
a request may leave. It never knows what a verdict is, and it never writes run files.
"""
