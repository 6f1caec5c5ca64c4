# The package, installed from its wheel with exactly the libraries of the lock file. `docker build -t mnist-pipeline .`
FROM python:3.13-slim AS libraries
COPY requirements.lock /
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r /requirements.lock

FROM libraries AS wheel
COPY . /checkout
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /checkout

FROM libraries
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl && pip check && useradd --create-home --uid 1000 mnist \
    && install --directory --owner=mnist /srv /srv/outputs /srv/cache /home/mnist/.prefect
USER mnist
WORKDIR /srv
ENV MNIST_PIPELINE_CACHE=/srv/cache PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
CMD ["mnist-pipeline", "--help"]
