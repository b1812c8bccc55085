{{- define "coordinator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "coordinator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "coordinator.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "coordinator.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "coordinator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "coordinator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "coordinator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "coordinator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "coordinator.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{/* What agents dial, as a list in JSON. */}}
{{- define "coordinator.authorities" -}}
{{- if .Values.authorities }}
{{- toJson .Values.authorities }}
{{- else if .Values.ingress.enabled }}
{{- list .Values.ingress.host | toJson }}
{{- end }}
{{- end }}

{{/* Values that contradict each other, which values.schema.json cannot express. */}}
{{- define "coordinator.validate" -}}
{{- $cluster := or .Values.cluster.urls .Values.cluster.existingSecret }}
{{- if not .Values.existingSecret }}
{{- fail "set existingSecret to a Secret with the keys api-keys and enrollment-codes" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "set ingress.host" }}
{{- end }}
{{- if not (include "coordinator.authorities" .) }}
{{- fail "set authorities, or ingress.host, to what agents dial" }}
{{- end }}
{{- if and .Values.cluster.urls .Values.cluster.existingSecret }}
{{- fail "set cluster.urls or cluster.existingSecret, not both" }}
{{- end }}
{{- if and (not $cluster) (gt (int .Values.replicas) 1) }}
{{- fail "several coordinators need NATS: set cluster.urls or cluster.existingSecret" }}
{{- end }}
{{- if and (not $cluster) (or .Values.cluster.credentialsSecret .Values.cluster.caSecret .Values.cluster.certificateSecret) }}
{{- fail "Secrets of cluster need cluster.urls or cluster.existingSecret" }}
{{- end }}
{{- range .Values.cluster.urls }}
{{- if contains "@" . }}
{{- fail "cluster.urls would show the password in the pod's command line: use cluster.existingSecret" }}
{{- end }}
{{- end }}
{{- range $argument := .Values.extraArgs }}
{{- range list "--host" "--port" "--api-keys" "--enrollment-codes" "--authority" "--trusted-proxy" "--drain-timeout" "--cluster" }}
{{- if or (eq $argument .) (hasPrefix (printf "%s=" .) $argument) (hasPrefix "--cluster-" $argument) }}
{{- fail (printf "extraArgs: the chart sets %s" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
