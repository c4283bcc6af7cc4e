"""What goes out of the house: provenance (ctxext.json), model card, push to the Hub.

May import everything but `pipeline` and `cli`. The only room that writes to the network.
"""
