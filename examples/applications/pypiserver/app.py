import pypiserver

app = pypiserver.app(roots="packages")
