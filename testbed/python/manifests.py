"""Checks a file of Kubernetes manifests against the schemas of a version, and prints its documents: manifests.py VERSION FILE."""

import json
import sys

import kubernetes_validate
import yaml

version, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    documents = list(yaml.safe_load_all(file))
for document in documents:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(step) for step in error.path)
        sys.exit(f"{document.get('kind')} {where}: {error.message}")
json.dump(documents, sys.stdout)
