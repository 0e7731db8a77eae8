#!/usr/bin/env bash
# Makes a node the control plane: control.sh ADDRESS. Certificates and kubeconfigs are those of `make vagrant-files`.
set -euo pipefail
address=$1
files=${FILES:-/vagrant/files}
pki=/etc/kubernetes/pki

booted() { [[ -d /run/systemd/system ]]; }
unit() { # unit NAME COMMAND...
    local name=$1
    shift
    printf '[Unit]\nDescription=%s of Kubernetes\nAfter=network-online.target\nWants=network-online.target\n\n' "$name"
    printf '[Service]\nExecStart=%s\nRestart=always\nRestartSec=2\n\n[Install]\nWantedBy=multi-user.target\n' "$*"
} >"/etc/systemd/system/$1.service"

mkdir -p "$pki"
for file in "$files"/pki/*.crt "$files"/pki/*.key "$files"/pki/*.pub "$files"/pki/kube-*.kubeconfig; do
    install -m 600 "$file" "$pki"
done
install -D -m 600 "$files/pki/admin.kubeconfig" /root/.kube/config

unit etcd /usr/local/bin/etcd --name=control --data-dir=/var/lib/etcd --listen-client-urls=http://127.0.0.1:2379 \
    --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 \
    --initial-advertise-peer-urls=http://127.0.0.1:2380 --initial-cluster=control=http://127.0.0.1:2380
unit kube-apiserver /usr/local/bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 "--advertise-address=$address" \
    --secure-port=6443 --tls-cert-file=$pki/kube-apiserver.crt --tls-private-key-file=$pki/kube-apiserver.key \
    --client-ca-file=$pki/ca.crt --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file=$pki/service-accounts.pub --service-account-signing-key-file=$pki/service-accounts.key \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --service-cluster-ip-range=10.96.0.0/16 \
    --allow-privileged=true --kubelet-client-certificate=$pki/kube-apiserver-kubelet-client.crt \
    --kubelet-client-key=$pki/kube-apiserver-kubelet-client.key --kubelet-preferred-address-types=InternalIP
for name in kube-controller-manager kube-scheduler; do
    set -- --kubeconfig=$pki/$name.kubeconfig --authentication-kubeconfig=$pki/$name.kubeconfig \
        --authorization-kubeconfig=$pki/$name.kubeconfig --bind-address=127.0.0.1
    if [[ $name == kube-controller-manager ]]; then
        set -- "$@" --use-service-account-credentials=true --service-account-private-key-file=$pki/service-accounts.key \
            --root-ca-file=$pki/ca.crt
    fi
    unit "$name" "/usr/local/bin/$name" "$@"
done
systemctl enable etcd kube-apiserver kube-controller-manager kube-scheduler
booted || exit 0
systemctl daemon-reload
systemctl restart etcd kube-apiserver kube-controller-manager kube-scheduler

export KUBECONFIG=/root/.kube/config
until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 1; done
kubectl apply -f "$files/manifests/coredns.yaml"
[[ -e $files/manifests/gateway-api.yaml ]] && kubectl apply --server-side -f "$files/manifests/gateway-api.yaml"
kubectl wait --for=condition=Ready nodes --all --timeout=180s
kubectl rollout status --namespace kube-system deployment/coredns --timeout=180s
