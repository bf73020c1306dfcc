"""The pages."""

import os

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render

from hello.models import Visit


def index(request):
    """Says who answers, and how often it was asked."""
    Visit.objects.create()
    values = {
        "greeting": settings.GREETING,
        "server": os.environ.get("WSGI_FLEET_SERVER", "-"),
        "release": os.environ.get("WSGI_FLEET_RELEASE", "-"),
        "visits": Visit.objects.count(),
        "scheme": request.scheme,
    }
    return render(request, "hello/index.html", values)


def healthz(_request):
    """Well without the database: a release is proven before its release task has changed that."""
    return HttpResponse("well\n", content_type="text/plain")
