import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Images are decoded into a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
