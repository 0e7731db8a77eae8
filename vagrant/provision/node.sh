#!/usr/bin/env bash
# Makes a machine a node of Kubernetes: node.sh NAME ADDRESS PODS OTHERS. PODS is the network of its pods; OTHERS says by
# which address the other nodes' pods are reached, as 10.244.1.0/24=192.168.56.11,... The files are those that
# `make vagrant-files` made. Run again it brings the machine to the same state. Where no systemd runs (a root that is yet
# to boot) units are enabled and not started.
set -euo pipefail
name=$1 address=$2 pods=$3 others=$4
files=${FILES:-/vagrant/files}
export DEBIAN_FRONTEND=noninteractive

say() { printf 'node %s: %s\n' "$name" "$*"; }
booted() { [[ -d /run/systemd/system ]]; }
unit() { # unit NAME DESCRIPTION COMMAND...: a service that is kept running
    local unit=$1 text=$2
    shift 2
    printf '[Unit]\nDescription=%s\nAfter=network-online.target containerd.service\nWants=network-online.target\n\n' "$text"
    printf '[Service]\nExecStart=%s\nRestart=always\nRestartSec=2\nDelegate=yes\nLimitNOFILE=1048576\n\n' "$*"
    printf '[Install]\nWantedBy=multi-user.target\n'
} >"/etc/systemd/system/$1.service"
start() {
    systemctl enable "$@"
    if booted; then systemctl daemon-reload && systemctl restart "$@"; fi
}

say "Debian packages"
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates conntrack containerd containernetworking-plugins curl \
    iproute2 iptables kmod nftables procps runc systemd >/dev/null

say "kernel"
printf 'overlay\nbr_netfilter\n' >/etc/modules-load.d/kubernetes.conf
printf 'net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\n' >/etc/sysctl.d/90-kubernetes.conf
if booted; then
    modprobe -a overlay br_netfilter
    sysctl -q --system
fi
sed -i '/\sswap\s/d' /etc/fstab 2>/dev/null || true
if booted; then swapoff -a; fi

say "programs and images"
install -m 755 "$files/bin/kubernetes" /usr/local/bin/kubernetes
for program in kubectl kubelet kube-proxy etcd kube-apiserver kube-controller-manager kube-scheduler; do
    ln -sfn kubernetes "/usr/local/bin/$program"
done
mkdir -p /etc/containerd /opt/cni/bin /etc/cni/net.d /etc/kubernetes/pki /var/lib/kubelet
cat >/etc/containerd/config.toml <<END
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
END
cp -f /usr/lib/cni/* /opt/cni/bin/
start containerd
if booted; then
    for image in "$files"/images/*.tar; do ctr --namespace k8s.io images import "$image" >/dev/null; done
fi

say "network of its pods, $pods"
cat >/etc/cni/net.d/10-bridge.conflist <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
{
    printf '#!/bin/sh\n# The pods of the other nodes.\n'
    for each in ${others//,/ }; do printf 'ip route replace %s via %s\n' "${each%=*}" "${each#*=}"; done
} >/usr/local/sbin/pod-routes
chmod 755 /usr/local/sbin/pod-routes
printf '[Unit]\nAfter=network-online.target\nWants=network-online.target\n[Service]\nType=oneshot\nExecStart=%s\nRemainAfterExit=yes\n[Install]\nWantedBy=multi-user.target\n' \
    /usr/local/sbin/pod-routes >/etc/systemd/system/pod-routes.service
start pod-routes

say "kubelet and kube-proxy"
install -m 600 "$files/pki/$name.kubeconfig" /etc/kubernetes/kubelet.kubeconfig
install -m 600 "$files/pki/kube-proxy.kubeconfig" /etc/kubernetes/kube-proxy.kubeconfig
install -m 644 "$files/pki/ca.crt" /etc/kubernetes/pki/ca.crt
cat >/etc/kubernetes/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
END
cat >/etc/kubernetes/kube-proxy.yaml <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16
mode: nftables
END
unit kubelet "Kubernetes' node agent" /usr/local/bin/kubelet --config=/etc/kubernetes/kubelet.yaml \
    --kubeconfig=/etc/kubernetes/kubelet.kubeconfig "--hostname-override=$name" "--node-ip=$address"
unit kube-proxy "Kubernetes' Services" /usr/local/bin/kube-proxy --config=/etc/kubernetes/kube-proxy.yaml \
    "--hostname-override=$name"
start kubelet kube-proxy
say "done"
