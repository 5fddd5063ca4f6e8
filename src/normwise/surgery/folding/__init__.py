"""What `fold` consists of: who feeds whom, what a layer computes, how it goes into another, whether it was right."""
