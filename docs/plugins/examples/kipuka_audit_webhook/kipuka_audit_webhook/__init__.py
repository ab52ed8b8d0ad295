"""An audit sink that posts events to a web hook.

In the house: a request and its signature (`message`), one delivery (`sink`), and the hook of the plugin (`plugin`).
"""
