{{- define "provider-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "provider-agent.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "provider-agent.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "provider-agent.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "provider-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "provider-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "provider-agent.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "provider-agent.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "provider-agent.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{/* The name of the ConfigMap with agent.toml; empty if variables suffice. */}}
{{- define "provider-agent.configMap" -}}
{{- if .Values.existingConfigMap }}
{{- .Values.existingConfigMap }}
{{- else if .Values.agentToml }}
{{- include "provider-agent.fullname" . }}
{{- end }}
{{- end }}

{{- define "provider-agent.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities:
  drop: [ALL]
{{- end }}

{{/* Values that contradict each other, which values.schema.json cannot express. */}}
{{- define "provider-agent.validate" -}}
{{- $names := list }}
{{- range .Values.env }}{{ $names = append $names .name }}{{ end }}
{{- if and .Values.agentToml .Values.existingConfigMap }}
{{- fail "set agentToml or existingConfigMap, not both" }}
{{- end }}
{{- if not (or .Values.agentToml .Values.existingConfigMap (has "PROVIDER_AGENT_COORDINATOR_URL" $names)) }}
{{- fail "no coordinator: set agentToml (--set-file agentToml=agent.toml), existingConfigMap, or PROVIDER_AGENT_COORDINATOR_URL in env" }}
{{- end }}
{{- range list "PROVIDER_AGENT_LIMITS_DRAIN_TIMEOUT_S" "PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR" "PROVIDER_AGENT_IDENTITY_KEY_PATH" }}
{{- if has . $names }}
{{- fail (printf "env: the chart sets %s; see drainTimeoutSeconds, statusPort and identity" .) }}
{{- end }}
{{- end }}
{{- if not (or .Values.identity.existingSecret .Values.persistence.enabled) }}
{{- fail "the identity key would be lost at every start: set identity.existingSecret or persistence.enabled" }}
{{- end }}
{{- if and .Values.enrollment.code .Values.enrollment.existingSecret }}
{{- fail "set enrollment.code or enrollment.existingSecret, not both" }}
{{- end }}
{{- if and .Values.vllm.enabled (not .Values.vllm.model) }}
{{- fail "set vllm.model, such as Qwen/Qwen2.5-7B-Instruct" }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.from) }}
{{- fail "the network policy would block Prometheus: set networkPolicy.from to its pods" }}
{{- end }}
{{- end }}

{{/* The kubelet does not reach the pod's loopback, on which vLLM listens. */}}
{{- define "provider-agent.vllmProbe" -}}
exec:
  command:
    - python3
    - -c
    - import urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=8)
{{- end }}
