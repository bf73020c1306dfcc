"""Django's settings as the talk recommends: defaults in code, then a file, then the environment."""

import os
import tomllib
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from hello import defaults

BASE_DIR = Path(__file__).resolve().parent.parent


def given(name):
    """The value of a setting: HELLO_<name> of the environment, else of the file, else the default.

    Raises ImproperlyConfigured, by name, where none of them has it: before the application can serve anything.
    """
    for place, key in ((os.environ, f"HELLO_{name}"), (_FILE, name), (vars(defaults), name)):
        if place.get(key):
            return place[key]
    raise ImproperlyConfigured(f"{name}: required and not set; set HELLO_{name} in the environment")


_FILE = {}
if "HELLO_SETTINGS_FILE" in os.environ:
    _FILE = tomllib.loads((BASE_DIR / os.environ["HELLO_SETTINGS_FILE"]).read_text())

SECRET_KEY = given("SECRET_KEY")
GREETING = given("GREETING")
ALLOWED_HOSTS = given("ALLOWED_HOSTS").split(",")

ROOT_URLCONF = "hello.urls"
WSGI_APPLICATION = "hello.wsgi.application"
INSTALLED_APPS = [
    "hello",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
# A file of one server, for the walk. A fleet shares a database: PostgreSQL, with its address and password in `secrets`.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ.get("STATE_DIRECTORY") or given("STATE_DIRECTORY")) / "hello.sqlite3",
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# collectstatic puts the files here under names with a hash; the balancer serves them at this path.
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}
# The balancer sets it, and replaces what a client sent under that name.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
