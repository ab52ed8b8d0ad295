"""Another distribution that calls its authenticator badge."""
