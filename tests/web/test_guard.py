"""What the server refuses before it does any work."""

import secrets

import pytest
from fastapi.testclient import TestClient

from ddim.errors import UserError
from ddim.web.application import build_application
from ddim.web.data_sets import list_data
from ddim.web.serve import check_settings, open_socket
from ddim.web.settings import Settings, check_token

TOKEN = secrets.token_urlsafe(24)


@pytest.fixture(scope="module")
def secret_client(trained):
    settings = Settings(trained, host="0.0.0.0", token=TOKEN)
    with TestClient(build_application(settings), base_url="http://10.1.2.3:8000") as found:
        yield found


@pytest.fixture(scope="module")
def open_client(trained):
    with TestClient(build_application(Settings(trained)), base_url="http://localhost:8000") as found:
        yield found


@pytest.mark.parametrize(
    "path", ["/healthz", "/api/runs", "/api/runs/nothing", "/nothing", "/api/openapi.json"]
)
def test_every_answer_carries_the_security_headers(open_client, path):
    headers = open_client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1"]
)
def test_a_server_of_another_name_is_refused(open_client, host):
    answer = open_client.get("/api/runs", headers={"Host": host})
    assert answer.status_code == 400
    assert "Host" in answer.json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_may_be_called_by_its_names(open_client, host):
    assert open_client.get("/api/runs", headers={"Host": host}).status_code == 200


def test_an_address_that_can_be_rebound_is_refused_but_a_number_is_not(secret_client):
    for host, status in (("evil.example", 400), ("10.1.2.3:8000", 200), ("[fe80::1]:8000", 200)):
        assert secret_client.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_address_cannot_post(open_client, headers):
    assert open_client.post("/api/runs", json={}, headers=headers).status_code == 403


def test_this_page_and_programs_can_post(open_client):
    for headers in ({}, {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}):
        assert open_client.post("/api/nothing", json={}, headers=headers).status_code in (404, 405)


def test_a_body_may_have_64_kib(open_client):
    def send(content):
        return open_client.post("/api/plans", content=content).status_code

    assert send(b"x" * 65537) == send(b"x" * 1024 for _ in range(65)) == 413
    assert send(b"x" * 65536) == send(b"x" * 1024 for _ in range(64)) == 422


def test_only_the_token_opens_the_page(secret_client):
    def status(path="/api/runs", **headers):
        return secret_client.get(path, headers=headers, follow_redirects=False).status_code

    assert status() == 401
    assert status(Authorization=f"Bearer {TOKEN[:-1]}") == 401
    assert status(Authorization=f"Basic {TOKEN}") == 401
    assert status(Cookie=f"ddim_token={TOKEN[:-1]}") == 401
    assert status(f"/api/runs?token={TOKEN}") == 401
    assert status("/?token=wrong") == 401
    assert status(Authorization=f"Bearer {TOKEN}") == 200
    assert status(Cookie=f"ddim_token={TOKEN}") == 200
    assert status("/healthz") == 200


def test_the_address_with_the_token_sets_a_cookie_that_scripts_cannot_read(secret_client):
    answer = secret_client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.split(";")[0] == f"ddim_token={TOKEN}"
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    secret_client.cookies.clear()


def test_the_log_has_a_line_for_each_request_of_the_interface_without_the_token(secret_client, caplog):
    with caplog.at_level("INFO", "ddim.web"):
        secret_client.get(f"/api/runs?token={TOKEN}")
        secret_client.get("/api/runs%0Aforged", headers={"Authorization": f"Bearer {TOKEN}"})
        secret_client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
    lines = [record.getMessage() for record in caplog.records if record.name == "ddim.web"]
    assert len(lines) == 2
    assert not [line for line in lines if TOKEN in line or "\n" in line]


@pytest.mark.parametrize("token", [None, "", "short", "a" * 40, "with space in the middle of it", "ü" * 30])
def test_other_machines_need_a_strong_token(token):
    with pytest.raises(UserError, match="--token"):
        check_token(token, "0.0.0.0")


def test_a_server_of_this_machine_needs_no_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        check_token(None, host)
    check_token(TOKEN, "0.0.0.0")


@pytest.mark.parametrize(
    ("folder", "port", "data"), [("none", 1, None), (".", 70000, None), (".", 1, "none")]
)
def test_settings_that_cannot_be_served_are_refused(folder, port, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        check_settings(folder, "127.0.0.1", port, None, data)


@pytest.mark.parametrize("name", ["--own=evil.py", "blossoms"])
def test_the_name_of_a_folder_is_never_an_option_or_a_built_in_set(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    settings = check_settings(".", "127.0.0.1", 1, None, ".")
    found = [source for entry, source in list_data(settings.data).values() if entry.kind == "folder"]
    assert found == [str(tmp_path), str(tmp_path / name)]
    assert str(settings.folder / name) == str(tmp_path / name)


def test_a_port_belongs_to_one_server():
    with open_socket("127.0.0.1", 0) as listener, pytest.raises(UserError, match="choose another --port"):
        open_socket("127.0.0.1", listener.getsockname()[1])
