"""The page: a server that shows the runs in a folder, samples them and starts trainings.

One thread of the server loads models and works with them.
"""
