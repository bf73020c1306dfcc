"""What answers where."""

from django.contrib import admin
from django.urls import path

from hello import views

urlpatterns = [
    path("", views.index),
    path("healthz", views.healthz),
    path("admin/", admin.site.urls),
]
