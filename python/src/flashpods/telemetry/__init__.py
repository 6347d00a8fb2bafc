"""What the API's process tells Prometheus.

``metrics`` counts and times what happens here, ``sampler`` looks at everything else every few
seconds, ``families`` turns what it saw and the database's totals into samples, ``status`` is how
other processes leave word. A scrape reads memory and one small query, and serialises in a thread.
"""
