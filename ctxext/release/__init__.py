"""What is published: the model card, the name of its base, the push to the Hub.

May import everything but `api` and `cli`. The only room that writes to the network.
"""
