package conformance

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var (
	waypointEnvoy     = flag.String("waypoint-envoy", "", "path on the nodes of an Envoy that is the waypoint in place of ours")
	waypointLibraries = flag.String("waypoint-libraries", "", "directory on the nodes with the C library that it is linked to")
	waypointImage     = flag.String("waypoint-image", "", "image that has `ambit`, which starts it")
)

// Parameters with which a Gateway gets all that a waypoint has, but no pods.
func withoutPods(t *testing.T, c client.Client) *gatewayv1.LocalParametersReference {
	parameters := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: "no-pods"},
		Data:       map[string]string{"deployment": "spec: {replicas: 0}"},
	}
	require.NoError(t, c.Create(context.Background(), parameters))
	return &gatewayv1.LocalParametersReference{Group: "", Kind: "ConfigMap", Name: parameters.Name}
}

// Runs an unmodified Envoy where the pods of the waypoint would be, under their service account, by `ambit envoy`: with the resources that
// configure ours.
func runEnvoy(t *testing.T, c client.Client) {
	ctx := context.Background()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: name}}
	roots := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: suite.MeshNamespace, Name: "istio-ca-root-cert"}}
	for _, made := range []client.Object{account, roots} {
		until(t, fmt.Sprintf("the control plane has made %T %s", made, made.GetName()), func() (bool, string) {
			err := c.Get(ctx, client.ObjectKeyFromObject(made), made)
			return err == nil, fmt.Sprint(err)
		})
	}
	pod := envoyPod()
	require.NoError(t, c.Create(ctx, pod))
	until(t, "Envoy is ready", func() (bool, string) {
		err := c.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return err == nil, ""
			}
		}
		return false, fmt.Sprint(err, pod.Status)
	})
}

func envoyPod() *corev1.Pod {
	from := func(name, path string, kind corev1.HostPathType) corev1.Volume {
		source := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}
		return corev1.Volume{Name: name, VolumeSource: source}
	}
	grace, seconds := int64(0), int64(3600)
	token := corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
		Path: "istio-token", Audience: "istio-ca", ExpirationSeconds: &seconds,
	}}
	roots := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "istio-ca-root-cert"}}
	ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready"}}
	ready.HTTPGet.Port.IntVal = 15021
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: suite.MeshNamespace, Name: name,
			Labels: map[string]string{
				"gateway.networking.k8s.io/gateway-name": name, "networking.istio.io/tunnel": "http", "istio.io/dataplane-mode": "none",
			},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName:            name,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "envoy", Image: *waypointImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{
					"ambit", "envoy", "--name=" + name, "--namespace=" + suite.MeshNamespace, "--service-account=" + name,
					"--concurrency=1", "--envoy=/envoy",
				},
				ReadinessProbe: &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 1},
				VolumeMounts: []corev1.VolumeMount{
					{Name: "program", MountPath: "/envoy", ReadOnly: true},
					{Name: "libraries", MountPath: *waypointLibraries, ReadOnly: true},
					{Name: "roots", MountPath: "/var/run/secrets/istio"},
					{Name: "token", MountPath: "/var/run/secrets/tokens"},
				},
			}},
			Volumes: []corev1.Volume{
				from("program", *waypointEnvoy, corev1.HostPathFile),
				from("libraries", *waypointLibraries, corev1.HostPathDirectory),
				{Name: "roots", VolumeSource: corev1.VolumeSource{ConfigMap: roots}},
				{Name: "token", VolumeSource: corev1.VolumeSource{
					Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{token}},
				}},
			},
		},
	}
}
