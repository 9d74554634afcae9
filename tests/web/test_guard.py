"""What the server refuses before it does any work."""

import pytest

from ddim.errors import UserError
from ddim.web.data_sets import list_data
from ddim.web.serve import check_settings, open_socket
from serving import BEARER, TOKEN, open_client


@pytest.fixture(scope="module")
def secret_client(trained):
    """A client that other machines could be, and that does not know the token."""
    with open_client(trained, "10.1.2.3", host="0.0.0.0") as found:
        del found.headers["Authorization"]
        yield found


@pytest.mark.parametrize("path", ["/healthz", "/api/runs/nothing", "/static/main.js"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert ("default-src 'self';" in policy, "unsafe" in policy) == (True, False)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")
    assert not [name for name in headers if name.startswith("access-control") or name == "server"]


OWN = ("127.0.0.1", "LOCALHOST:9000", "[::1]:8000")
NUMBERS = ("10.1.2.3:8000", "[fe80::1]:8000")
FOREIGN = ("evil.example", "localhost:99999", "", "[::1", "127.0.0.1.evil.example", "localhost@evil.example")


def test_a_server_answers_to_its_own_names_and_numbers_only(client, secret_client):
    """Anybody can make a name point to its address; a number is no name."""
    for one, known in ((client, OWN), (secret_client, OWN + NUMBERS)):
        for host in {*OWN, *NUMBERS, *FOREIGN}:
            status = one.get("/healthz", headers={"Host": host}).status_code
            assert (host, status) == (host, 200 if host in known else 400)


SENDERS = [({}, 422), ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 422)]
SENDERS += [({"Origin": origin}, 403) for origin in ("http://evil.example", "null", "http://127.0.0.1:9000")]
SENDERS += [({"Sec-Fetch-Site": site}, 403) for site in ("cross-site", "same-site")]


@pytest.mark.parametrize(("headers", "status"), SENDERS, ids=str)
def test_only_this_page_and_programs_use_the_interface_and_links_lead_to_the_page(client, headers, status):
    assert client.post("/api/runs/one/samples", json=[], headers=headers).status_code == status
    reading = [client.get(path, headers=headers).status_code for path in ("/api/about", "/api/events/", "/")]
    assert reading == ([200, 404, 200] if status == 422 else [403, 403, 200])


def test_a_body_may_have_64_kib(client):
    def send(content):
        return client.post("/api/runs/one/samples", content=content).status_code

    assert send(b"x" * 65537) == send(b"x" * 1024 for _ in range(65)) == 413
    assert send(b"x" * 65536) == send(b"x" * 1024 for _ in range(64)) == 422


def test_only_the_token_opens_the_page(client, secret_client):
    def status(path="/api/runs", **headers):
        return secret_client.get(path, headers=headers, follow_redirects=False).status_code

    for token, right in ((TOKEN[:-1], 401), (TOKEN, 200)):
        assert status(Authorization=f"Bearer {token}") == status(Cookie=f"ddim_token_8000={token}") == right
    wrong = ("/api/runs", f"/api/runs?token={TOKEN}", "/", "/?token=wrong", "/static/main.js")
    assert [status(path) for path in wrong] == [401] * 5
    assert client.get("/api/runs", headers={"Authorization": ""}).status_code == 401
    texts = {secret_client.get(path).text for path in wrong[2:]}
    assert ["`ddim serve` printed" in text for text in texts] == [True]
    assert (status(Authorization=f"Basic {TOKEN}"), status("/healthz")) == (401, 200)
    answer = secret_client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie, *flags = answer.headers["set-cookie"].split("; ")
    assert cookie == f"ddim_token_8000={TOKEN}"
    assert {"httponly", "samesite=lax", "path=/"} <= {flag.lower() for flag in flags}
    # Browsers send a cookie to all ports of a host: a server at another port has another cookie.
    other = secret_client.get(f"/?token={TOKEN}", headers={"Host": "10.1.2.3:9000"}, follow_redirects=False)
    assert not other.headers["set-cookie"].startswith(cookie)
    secret_client.cookies.clear()


def test_a_ticket_opens_the_page_once(secret_client):
    path = f"/?token={secret_client.app.ticket}"
    first, second = (secret_client.get(path, follow_redirects=False) for _ in range(2))
    assert first.headers["set-cookie"].startswith(f"ddim_token_8000={TOKEN};")
    assert (second.status_code, secret_client.get("/?token=").status_code) == (401, 401)
    secret_client.cookies.clear()


def test_the_log_has_a_line_for_each_request_of_the_interface_without_the_token(secret_client, caplog):
    with caplog.at_level("INFO", "ddim.web"):
        for path in (f"/api/runs?token={TOKEN}", "/api/runs%0Aforged", "/", "/static/main.js"):
            secret_client.get(path, headers=BEARER)
    lines = [record.getMessage() for record in caplog.records if record.name == "ddim.web"]
    assert [TOKEN in line or "\n" in line for line in lines] == [False, False]


@pytest.mark.parametrize("token", ["", "short", "a" * 40, "with space in the middle of it", "ü" * 30])
def test_a_token_that_can_be_guessed_is_refused(token, monkeypatch):
    with pytest.raises(UserError, match="22 random letters"):
        check_settings(".", "127.0.0.1", token, None)
    if token:
        monkeypatch.setenv("DDIM_TOKEN", token)
        with pytest.raises(UserError, match="DDIM_TOKEN"):
            check_settings(".", "127.0.0.1", None, None)


def test_every_server_has_a_token_of_the_option_or_the_environment_or_a_new_one(monkeypatch):
    def find_token(option=None):
        return check_settings(".", "127.0.0.1", option, None).token

    monkeypatch.delenv("DDIM_TOKEN", raising=False)
    assert find_token() != find_token()
    monkeypatch.setenv("DDIM_TOKEN", TOKEN)
    assert (find_token(), find_token(TOKEN[::-1])) == (TOKEN, TOKEN[::-1])


def test_the_name_of_a_folder_is_never_an_option_or_a_built_in_set(here):
    paths = [here / "--own=evil.py", here / "blossoms"]
    for path in paths:
        path.mkdir()
    settings = check_settings(".", "127.0.0.1", None, ".")
    found = [source for entry, source in list_data(settings.data).values() if entry.kind == "folder"]
    assert found == [*map(str, [here, *paths])]


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.js", "/api/nothing", "/api/runs/one/samples"])
def test_an_unknown_address_is_answered_by_a_sentence_as_plain_text_outside_the_interface(client, path):
    answer = client.get(path)
    assert (answer.status_code, "this address" in answer.text) == (405 if "runs" in path else 404, True)
    assert answer.headers["content-type"].startswith("application/json" if "api" in path else "text/plain")


def test_a_port_belongs_to_one_server():
    with open_socket("127.0.0.1", 0) as listener, pytest.raises(UserError, match="choose another --port"):
        open_socket("127.0.0.1", listener.getsockname()[1])
