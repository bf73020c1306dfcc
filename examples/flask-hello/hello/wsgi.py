"""Where the gateway finds the application: hello.wsgi:app."""

from hello import create_app

app = create_app()
