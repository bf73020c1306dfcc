"""What a project that `django-admin startproject` makes needs in production, beside its own settings."""

import os

from shop.settings import *

DEBUG = False
# localhost is what the servers are asked for their health by, where the stack file names no host.
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
SECRET_KEY = os.environ["SECRET_KEY"]
STATIC_ROOT = BASE_DIR / "static-files"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/var/lib/app/site.sqlite3"}}
