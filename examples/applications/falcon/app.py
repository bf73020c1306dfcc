import falcon


class Echo:
    def on_get(self, request, response):
        response.media = {"hello": "fleet"}

    def on_post(self, request, response):
        response.media = {"bytes": len(request.bounded_stream.read())}


app = falcon.App()
app.add_route("/echo", Echo())
