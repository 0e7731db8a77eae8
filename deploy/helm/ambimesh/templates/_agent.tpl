{{/* What the agent and its removal have in common. */}}
{{- define "ambimesh.agentContainer" -}}
image: {{ include "ambimesh.image" (dict "root" $ "component" "agent") | quote }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
resources:
  {{- toYaml .Values.agent.resources | nindent 2 }}
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add:
      - BPF # loads programs, opens pinned maps
      - NET_ADMIN # attaches them to cgroups and network namespaces
      - PERFMON # programs read kernel structures
      - SYS_ADMIN # enters pods' network namespaces
      - SYSLOG # the compiler asks /proc/kallsyms what the kernel has, which shows nothing without it
      - SYS_PTRACE # finds them under /proc, whoever owns the process
volumeMounts:
  - {name: settings, mountPath: /etc/ambimesh, readOnly: true}
  - {name: scratch, mountPath: /tmp}
  - {name: run, mountPath: /run/ambimesh}
  - {name: cni-net, mountPath: /host/cni/net.d}
  - {name: cni-bin, mountPath: /host/cni/bin}
  - {name: bpffs, mountPath: /sys/fs/bpf}
  - {name: cgroup, mountPath: /host/cgroup}
  - {name: proc, mountPath: /host/proc, readOnly: true}
  # Namespaces that the runtime mounts later must show up here, too.
  - {name: netns, mountPath: /var/run/netns, mountPropagation: HostToContainer}
{{- end }}
