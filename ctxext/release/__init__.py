"""What goes out of the house: model card, the name of its base, push to the Hub.

May import everything but `api` and `cli`. The only room that writes to the network.
"""
