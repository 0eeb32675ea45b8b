{{/* The name of the objects, different for every serviceProxyName, so that several releases can run on a node. */}}
{{- define "nfproxy.name" -}}
nfproxy{{ with .Values.serviceProxyName }}-{{ . }}{{ end }}
{{- end }}

{{/* The name of the service account: the default is the name of the other objects. */}}
{{- define "nfproxy.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "nfproxy.name" .) }}
{{- end }}

{{/* The labels of every object. */}}
{{- define "nfproxy.labels" -}}
app.kubernetes.io/name: {{ include "nfproxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The bind address of the metrics; empty for nfproxy's default. */}}
{{- define "nfproxy.metricsBindAddress" -}}
{{ .Values.metricsBindAddress | default (ternary "0.0.0.0:10249" "" .Values.podMonitor.enabled) }}
{{- end }}

{{/* The configuration, before the value config is merged into it. In a container the conntrack sysctls are read-only: set them on
the node; 0 leaves them unchanged. The kubelet gives a Pod of this priority the same OOM score, so nfproxy does not need
CAP_SYS_RESOURCE to set it. */}}
{{- define "nfproxy.config" -}}
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {{ .Values.clusterCIDR | quote }}
{{- with .Values.detectLocalMode }}
detectLocalMode: {{ . }}
{{- end }}
{{- with .Values.healthzBindAddress }}
healthzBindAddress: {{ . | quote }}
{{- end }}
{{- with include "nfproxy.metricsBindAddress" . }}
metricsBindAddress: {{ . | quote }}
{{- end }}
clientConnection:
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
oomScoreAdj: -997
conntrack:
  maxPerCore: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
{{- end }}
