#!/usr/bin/env bash
# A namespace in the mesh, a server on one node, and a client on another that calls it by the Service's name.
set -euo pipefail
files=${FILES:-/vagrant/files}
export KUBECONFIG=/root/.kube/config

kubectl apply -f "$files/manifests/demo.yaml"
ambimesh namespace enroll demo
kubectl rollout status --namespace demo deployment/echo deployment/client --timeout=180s
for _ in 1 2 3; do
    kubectl exec --namespace demo deployment/client -- \
        python -c 'import urllib.request as r; print(r.urlopen("http://echo.demo/", timeout=10).status)'
done
ambimesh namespace list
ambimesh ztunnel-config workload --workload-namespace demo
kubectl logs --namespace ambimesh-system daemonset/ambimesh-ztunnel --tail=3
