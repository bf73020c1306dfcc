"""What the application remembers."""

from django.db import models


class Visit(models.Model):
    """Somebody saw the front page."""

    when = models.DateTimeField(auto_now_add=True)
