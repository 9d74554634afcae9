"""What TensorBoard shows."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_events(folder):
    """Return {name: [(step, value)]} of the scalars and {name: [(step, PNG)]} of the images of a folder."""
    shown = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = shown.Tags()
    scalars = {name: [(e.step, e.value) for e in shown.Scalars(name)] for name in tags["scalars"]}
    images = {name: [(e.step, e.encoded_image_string) for e in shown.Images(name)] for name in tags["images"]}
    return scalars, images
