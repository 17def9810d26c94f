"""What an operator and a scrape see of a running service: a WSGI application that reads, and never writes."""
