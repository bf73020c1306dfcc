from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent", cors_allowed_origins="*")


@app.get("/")
def index():
    return "here"


@socketio.on("say")
def say(text):
    emit("said", text)
