"""The page: a server that shows the runs in a folder, samples them and starts trainings.

The process of the server imports no torch. Models are loaded in one worker process.
"""
