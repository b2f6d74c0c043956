"""Several workers, on one machine or many, each with the model: who gets which images, and what when one is lost.

``dispatch`` decides which worker gets which images next and is pure; ``foreman`` keeps the workers at work through a
``pool``; ``ray_pool`` is the pool that Ray holds; ``worker`` is what runs at its other end; ``crew`` makes a run's
session of it all. Ray is imported by ``ray_pool`` only.
"""
