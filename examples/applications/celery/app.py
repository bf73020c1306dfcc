from pathlib import Path

from celery import Celery
from flask import Flask, request

here = Path("/var/lib/app")
for folder in ("queue", "processed", "control", "results"):
    (here / folder).mkdir(exist_ok=True)
tasks = Celery("tasks", broker="filesystem://", backend=f"file://{here}/results")
tasks.conf.broker_transport_options = {
    "data_folder_in": here / "queue",
    "data_folder_out": here / "queue",
    "processed_folder": here / "processed",
    "control_folder": here / "control",
}
app = Flask(__name__)


@tasks.task
def add(a, b):
    return a + b


@app.get("/")
def index():
    return "here"


@app.post("/add")
def ask():
    return add.delay(int(request.args["a"]), int(request.args["b"])).id


@app.get("/result/<task>")
def result(task):
    found = tasks.AsyncResult(task)
    return str(found.result) if found.ready() else "PENDING"
