package watcher

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"nfproxy/nft"
)

// servicePort is one port of a Service, or of an EndpointSlice.
type servicePort struct {
	name     string
	protocol nft.Protocol
	port     uint16
	// nodePort is the Service's port at nodes, 0 for none.
	nodePort uint16
}

// reduceServicePorts takes the ports that can be served. A port's name must be one that the API server would have let in:
// it ends up in comments and in the names of maps.
func reduceServicePorts(api *corev1.Service, note notes) []servicePort {
	var have portList
	for i, p := range api.Spec.Ports {
		port, field, err := reducePort(p.Name, string(p.Protocol), p.Port)
		if err == nil && p.Port == 0 {
			field, err = "port", fmt.Errorf("0 is not a port")
		}
		if wrong := validation.IsDNS1123Label(p.Name); err == nil && p.Name != "" && len(wrong) > 0 {
			field, err = "name", fmt.Errorf("%q is not a name: %s", p.Name, wrong[0])
		}
		if err == nil {
			field, err = have.clash(port)
		}
		if err != nil {
			note.add(fmt.Sprintf("spec.ports[%d].%s", i, field), err.Error())
			continue
		}
		if nodePorts(api) {
			if port.nodePort, err = have.nodePort(port.protocol, p.NodePort); err != nil {
				note.add(fmt.Sprintf("spec.ports[%d].nodePort", i), err.Error())
			}
		}
		have.add(port)
	}
	return have.list
}

// portList is the ports of a Service that can be served. There can be tens of thousands.
type portList struct {
	list []servicePort
	// numbers and nodePorts have the ports by what nobody else may have, names by their names.
	numbers, nodePorts map[portNumber]servicePort
	names              map[string]servicePort
}

type portNumber struct {
	protocol nft.Protocol
	number   uint16
}

func (l *portList) add(p servicePort) {
	if l.list == nil {
		l.numbers, l.nodePorts, l.names = make(map[portNumber]servicePort), make(map[portNumber]servicePort), make(map[string]servicePort)
	}
	l.list = append(l.list, p)
	l.numbers[portNumber{p.protocol, p.port}], l.names[p.name] = p, p
	if p.nodePort != 0 {
		l.nodePorts[portNumber{p.protocol, p.nodePort}] = p
	}
}

// clash reports what a port repeats of the ports before it. Names tell ports apart for EndpointSlices, so they have to
// differ even where the protocols do; the API server asks for the same.
func (l *portList) clash(port servicePort) (field string, err error) {
	if other, ok := l.numbers[portNumber{port.protocol, port.port}]; ok {
		return "port", fmt.Errorf("%d/%s is there already as port %q", port.port, port.protocol, other.name)
	}
	if other, ok := l.names[port.name]; ok {
		return "name", fmt.Errorf("port %d/%s has the name %q already", other.port, other.protocol, other.name)
	}
	return "", nil
}

// nodePorts tells whether a Service has ports at nodes. Of other types the field means nothing.
func nodePorts(api *corev1.Service) bool {
	return api.Spec.Type == corev1.ServiceTypeNodePort || api.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// nodePort returns the port at nodes, 0 if there is none or it cannot be used.
func (l *portList) nodePort(protocol nft.Protocol, number int32) (uint16, error) {
	if number < 0 || number > math.MaxUint16 {
		return 0, fmt.Errorf("%d is not a port", number)
	}
	if other, ok := l.nodePorts[portNumber{protocol, uint16(number)}]; ok {
		return 0, fmt.Errorf("%d/%s is there already as port %q", number, protocol, other.name)
	}
	return uint16(number), nil
}

func reducePort(name, protocol string, number int32) (port servicePort, field string, err error) {
	proto, err := nft.ParseProtocol(protocol)
	if err != nil {
		return port, "protocol", err
	}
	if number < 0 || number > math.MaxUint16 {
		return port, "port", fmt.Errorf("%d is not a port", number)
	}
	return servicePort{name: name, protocol: proto, port: uint16(number)}, "", nil
}
