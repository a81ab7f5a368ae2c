# mnemoscope on a CPU, from the wheel of this checkout. It runs as an ordinary user:
#   docker build -t mnemoscope --build-arg TORCH="torch --index-url URL-OF-THE-CPU-BUILD" .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" mnemoscope audit embedded README.md -o audit
FROM python:3.12-slim AS wheel
WORKDIR /source
RUN python -m pip install --no-cache-dir "build>=1.2"
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
# Words that pip is told for PyTorch; a plain install brings CUDA.
ARG TORCH="torch"
ARG EXTRAS="audit,gguf,zstd"
COPY --from=wheel /wheels /wheels
# hadolint ignore=SC2086,DL3013
RUN python -m pip install --no-cache-dir $TORCH \
 && python -m pip install --no-cache-dir "$(echo /wheels/*.whl)[$EXTRAS]" \
 && rm -r /wheels \
 && useradd --create-home --uid 10001 reader \
 && install -d -o reader /data
# Models of the hub are kept here; any user may write, since --user may name any.
ENV HF_HOME=/cache
RUN install -d -m 1777 /cache
USER 10001
WORKDIR /data
ENTRYPOINT ["mnemoscope"]
CMD ["--help"]
