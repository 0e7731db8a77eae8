{{/* What the templates share. They keep to the subset of Go's templates that ambimesh/chart/template_codec.py tells. */}}
{{- define "ambimesh.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: ambimesh
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "ambimesh.image" -}}
{{ .root.Values.images.prefix }}{{ .component }}:{{ default .root.Chart.AppVersion .root.Values.images.tag }}
{{- end }}

{{- define "ambimesh.operatorHost" -}}
ambimesh-operator.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where pods run; of the values of one component. */}}
{{- define "ambimesh.placement" -}}
priorityClassName: {{ .priorityClassName | quote }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ambimesh.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "ambimesh.operatorSettings" -}}
source:
  kubernetes:
    read_secrets: {{ .Values.waypoints.credentials }}
mesh:
  trust_domain: {{ .Values.mesh.trustDomain | quote }}
  cluster_id: {{ .Values.mesh.clusterId | quote }}
  cluster_domain: {{ .Values.mesh.clusterDomain | quote }}
  network: {{ .Values.mesh.network | quote }}
  root_namespace: {{ .Values.mesh.rootNamespace | quote }}
authority: {}
authentication:
  trusted_node_accounts: ["{{ .Release.Namespace }}/ztunnel"]
grpc:
  server_name: {{ include "ambimesh.operatorHost" . | quote }}
waypoints:
  classes:
    - ambimesh-waypoint
    {{- if .Values.waypoints.istioClass }}
    - istio-waypoint
    {{- end }}
  image: {{ include "ambimesh.image" (dict "root" $ "component" "waypoint") | quote }}
  command: [python, -m, waypoint, --config, /etc/ambimesh/waypoint.yaml]
  grace_seconds: {{ add .Values.waypoints.drainSeconds 5 }}
  environment:
    CLUSTER_ID: {{ .Values.mesh.clusterId | quote }}
    DRAIN_SECONDS: {{ .Values.waypoints.drainSeconds | toYaml | quote }}
    LOG_FORMAT: {{ .Values.log.format }}
    LOG_LEVEL: {{ .Values.log.level }}
    NETWORK: {{ .Values.mesh.network | quote }}
    OPERATOR_ADDRESS: {{ include "ambimesh.operatorHost" . }}:15012
    OPERATOR_NAME: {{ include "ambimesh.operatorHost" . }}
    TRUST_DOMAIN: {{ .Values.mesh.trustDomain | quote }}
  cluster:
    image_pull_policy: {{ .Values.images.pullPolicy }}
    {{- with .Values.images.pullSecrets }}
    image_pull_secrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .Values.waypoints.autoscaling.enabled }}
    max_replicas: {{ .Values.waypoints.autoscaling.maxReplicas }}
    cpu_utilization: {{ .Values.waypoints.autoscaling.cpuUtilization }}
    {{- end }}
    resources:
      {{- toYaml .Values.waypoints.resources | nindent 6 }}
log:
  level: {{ .Values.log.level }}
  format: {{ .Values.log.format }}
{{- end }}

{{- define "ambimesh.agentSettings" -}}
node:
  name: ${NODE_NAME}
source:
  kubernetes: {}
cni:
  binary: /opt/ambimesh/bin/ambimesh-cni
  net_directory: /host/cni/net.d
  binary_directory: /host/cni/bin
  net_directory_of_node: {{ .Values.agent.cniNetDirectory }}
  binary_directory_of_node: {{ .Values.agent.cniBinaryDirectory }}
bpf:
  bpffs: /sys/fs/bpf
  cgroup: /host/cgroup
enrolment:
  excluded_namespaces:
    {{- toYaml .Values.agent.excludedNamespaces | nindent 4 }}
  own_pods:
    - namespace: {{ .Release.Namespace }}
      labels: {app.kubernetes.io/name: ambimesh-ztunnel}
    - namespace: {{ .Release.Namespace }}
      labels: {app.kubernetes.io/name: ambimesh-agent}
proc: /host/proc
log:
  level: {{ .Values.log.level }}
  format: {{ .Values.log.format }}
{{- end }}

{{- define "ambimesh.ztunnelSettings" -}}
node:
  name: ${NODE_NAME}
  cluster_id: {{ .Values.mesh.clusterId | quote }}
  network: {{ .Values.mesh.network | quote }}
  trust_domain: {{ .Values.mesh.trustDomain | quote }}
  pod_name: ${POD_NAME}
  pod_namespace: ${POD_NAMESPACE}
  pod_ip: "${POD_IP}"
control_plane:
  address: {{ include "ambimesh.operatorHost" . }}:15012
  server_name: {{ include "ambimesh.operatorHost" . }}
  root_certificate: /var/lib/ambimesh/roots/root-cert.pem
  token: /var/lib/ambimesh/token/token
fast_path:
  enabled: {{ .Values.ztunnel.fastPath.enabled }}
  splice: {{ .Values.ztunnel.fastPath.splice }}
{{- if .Values.ztunnel.workers }}
workers: {{ .Values.ztunnel.workers }}
{{- end }}
kernel_tls: {{ .Values.ztunnel.kernelTls }}
drain_seconds: {{ .Values.ztunnel.drainSeconds }}
log:
  level: {{ .Values.log.level }}
  format: {{ .Values.log.format }}
  access_level: {{ .Values.ztunnel.accessLog | quote }}
{{- end }}
